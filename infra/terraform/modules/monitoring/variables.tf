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

variable "billing_account" {
  description = "Billing account for the budget, such as 012345-6789AB-CDEF01; empty for no budget."
  type        = string
  default     = ""
}

variable "monthly_budget_usd" {
  description = "Budget of the project for a month, in US dollars. A budget tells, it stops nothing."
  type        = number
  default     = 200
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}
