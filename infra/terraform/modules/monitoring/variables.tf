variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of everything, Vertex AI included."
  type        = string
}

variable "alert_emails" {
  description = "Who is told when something is wrong; without any, alerts are only seen in the console."
  type        = list(string)
  default     = []
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}
