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

variable "image" {
  description = "Container image of the service, by digest."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.image))
    error_message = "Name the image by digest, …/NAME@sha256:<64 hex digits>: a tag may be another image tomorrow."
  }
}

variable "operators" {
  description = "Who may call the HTTP interface (POST /redeploy, GET /status): IAM members such as group:ml@example.com."
  type        = list(string)
  default     = []
}

variable "firebase_ml" {
  description = "Whether data sets may publish through Firebase ML (publishing.channels: firebase-ml)."
  type        = bool
  default     = false
}

variable "staged_rollouts" {
  description = "Whether it may write the project's Remote Config template, for data sets with publishing.rollout."
  type        = bool
  default     = true
}

variable "max_instances" {
  description = "Upper limit of instances; what comes above it waits and is delivered again."
  type        = number
  default     = 10
}

variable "firebase_key_secret" {
  description = "Secret with a service account's key for Firebase ML; not needed, because the service signs without a key."
  type        = string
  default     = ""
}

variable "firebase_bucket_linked" {
  description = "Whether the bucket that phones read is linked to Firebase; its security rules can be released then."
  type        = bool
  default     = false
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

variable "console_account" {
  description = "E-mail of the account that the console calls as: the person that it names is believed. Empty without one."
  type        = string
  default     = ""
}

variable "automl" {
  description = "Whether data sets may be trained by AutoML."
  type        = bool
  default     = false
}
