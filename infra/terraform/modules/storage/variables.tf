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

variable "delete_data" {
  description = "Whether destroying this module may delete buckets that still hold objects. False keeps all data and models."
  type        = bool
  default     = false
}

variable "delete_runs_after_days" {
  description = <<-EOT
    Delete the artifacts of runs that are older than this; null keeps them (they move to Nearline after 90 days). A model
    that serves for longer than this can no longer be brought out again without training, nor be measured: models that
    come after it are rejected as `live_measured`, until one of them is sent to /redeploy with force.
  EOT
  type        = number
  default     = null

  validation {
    condition     = var.delete_runs_after_days == null ? true : var.delete_runs_after_days >= 90
    error_message = "Keep runs for at least 90 days: what serves now may have been trained by one of them."
  }
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}

variable "browser_origins" {
  description = "Origins (https://app.example.com) whose pages may read what phones read; none: no page of a browser."
  type        = list(string)
  default     = []
}
