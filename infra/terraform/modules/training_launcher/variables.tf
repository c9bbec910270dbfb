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

variable "source_object" {
  description = "Name of the package in the bucket of sources: training_launcher/<64 hex digits>.zip, as `make deploy` puts it there."
  type        = string

  validation {
    condition     = can(regex("^training_launcher/[0-9a-f]{64}\\.zip$", var.source_object))
    error_message = "Name the package by its digest, training_launcher/<64 hex digits>.zip: make deploy SERVICE=training_launcher."
  }
}

variable "build" {
  description = "How functions are built, from modules/project."
  type = object({
    source_bucket   = string
    repository      = string
    service_account = string
  })
}

variable "trainer_image" {
  description = "Container image of services/trainer, by digest."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.trainer_image))
    error_message = "Name the image by digest, …/trainer@sha256:<64 hex digits>: a tag may be another image tomorrow."
  }
}

variable "training_account" {
  description = "The account that training jobs run as, from modules/training."
  type = object({
    id    = string
    email = string
  })
}

variable "max_instances" {
  description = "Upper limit of instances; what comes above it waits and is delivered again."
  type        = number
  default     = 10
}

variable "releasers" {
  description = "IAM members that deploy new versions for a commit on main, from modules/delivery."
  type        = list(string)
  default     = []
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}

variable "automl" {
  description = "Whether data sets may be trained by AutoML."
  type        = bool
  default     = false
}
