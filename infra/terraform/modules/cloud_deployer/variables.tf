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

variable "predictor_image" {
  description = "Container image of services/predictor, by digest."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.predictor_image))
    error_message = "Name the image by digest, …/predictor@sha256:<64 hex digits>: a tag may be another image tomorrow."
  }
}

variable "trainer_image" {
  description = "Container image of services/trainer, by digest: measures the live model on a new run's pictures."
  type        = string

  validation {
    condition     = can(regex("@sha256:[0-9a-f]{64}$", var.trainer_image))
    error_message = "Name the image by digest, …/trainer@sha256:<64 hex digits>: a tag may be another image tomorrow."
  }
}

variable "training_account" {
  description = "The account that such a job runs as, from modules/training."
  type = object({
    id    = string
    email = string
  })
}

variable "revision" {
  description = "Commit that the images were built of; becomes a label of every model version."
  type        = string
  default     = ""

  validation {
    condition     = can(regex("^[0-9a-z_-]{0,63}$", var.revision))
    error_message = "The revision becomes a label: at most 63 of [0-9a-z_-], such as a commit's 40 hex digits."
  }
}

variable "operators" {
  description = "Who may call the HTTP interface (POST /redeploy, GET /status): IAM members such as group:ml@example.com."
  type        = list(string)
  default     = []
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
