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

variable "settings" {
  description = "Which apps may ask, from which pages, and how much: see services/gateway."
  type = object({
    apps            = list(string)
    origins         = list(string)
    require_user    = bool
    user_per_second = number
    user_burst      = number
    user_per_day    = number
    app_per_second  = number
    max_instances   = number
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
