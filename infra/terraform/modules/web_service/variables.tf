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

variable "name" {
  description = "Name of the service in the topology, for example gateway."
  type        = string
}

variable "image" {
  description = "Container image of the service, by digest."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest, …/NAME@sha256:<64 hex digits>: a tag may be another image tomorrow."
  }
}

variable "environment" {
  description = "Environment variables that this service reads besides project, region and ledger."
  type        = map(string)
}

variable "secrets" {
  description = "Environment variables that are secrets: the id of each in Secret Manager."
  type        = map(string)
  default     = {}
}

variable "reads" {
  description = "How the names of the objects begin that it may read, by bucket; an empty list: all of them."
  type        = map(list(string))
}

variable "checks_callers_itself" {
  description = "Whether Cloud Run lets everybody in, because the service asks for tokens of its own."
  type        = bool
}

variable "timeout_seconds" {
  description = "How long a request may take."
  type        = number
}

variable "concurrency" {
  description = "Requests that one instance handles at once."
  type        = number
}

variable "max_instances" {
  description = "Upper limit of instances."
  type        = number
}

variable "releasers" {
  description = "IAM members that deploy new versions for a commit on main, from modules/delivery."
  type        = list(string)
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
}
