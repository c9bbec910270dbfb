variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of everything, Vertex AI included."
  type        = string
}

variable "topics" {
  description = "Ids of the topics by name, from modules/messaging."
  type        = map(string)
}

variable "buckets" {
  description = "Names of the buckets by what the product calls them, from modules/storage."
  type        = map(string)
}

variable "source_archive" {
  description = "Path of build/<service>.zip, which `make package SERVICE=<service>` makes."
  type        = string
}

variable "build" {
  description = "How functions are built, from modules/project."
  type = object({
    source_bucket   = string
    repository      = string
    service_account = string
  })
}

variable "max_instances" {
  description = "Upper limit of instances; what comes above it waits and is delivered again."
  type        = number
  default     = 10
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}
