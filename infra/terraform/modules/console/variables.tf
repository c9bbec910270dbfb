variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of everything, Vertex AI included."
  type        = string
}

variable "buckets" {
  description = "Names of the buckets by what the product calls them, from modules/storage."
  type        = map(string)
}

variable "image" {
  description = "Container image of the service, by digest."
  type        = string
}

variable "operators" {
  description = "Who may open the console: IAM members such as group:ml@example.com."
  type        = list(string)
}

variable "settings" {
  description = "How the console is reached: iap_audience where Identity-Aware Proxy stands before it."
  type = object({
    iap_audience = string
  })
}

variable "releasers" {
  description = "IAM members that deploy new versions for a commit on main, from modules/delivery."
  type        = list(string)
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
}
