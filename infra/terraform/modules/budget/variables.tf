variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "alert_emails" {
  description = "Who is told besides those who pay; a budget takes five at most, the first ones."
  type        = list(string)
  default     = []
}

variable "billing_account" {
  description = "Billing account of the project, such as 012345-6789AB-CDEF01."
  type        = string
}

variable "monthly_budget" {
  description = "Budget of the project for a month, in the currency of the billing account. A budget tells, it stops nothing."
  type        = number
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
  default     = {}
}
