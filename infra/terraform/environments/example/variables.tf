variable "project" {
  description = "Id of the Google Cloud project."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project))
    error_message = "A project id has 6 to 30 of [a-z0-9-], a letter first, no hyphen last."
  }
}

variable "region" {
  description = "Region of everything: one where Vertex AI has the accelerators that the data sets ask for."
  type        = string
  default     = "us-central1"
}

variable "images" {
  description = <<-EOT
    Images by digest: trainer, predictor, cloud_deployer, mobile_publisher. Only the very first step, which makes the
    repository that they are pushed to (-target=module.project), does without.
  EOT
  type = object({
    trainer          = optional(string, "")
    predictor        = optional(string, "")
    cloud_deployer   = optional(string, "")
    mobile_publisher = optional(string, "")
  })
  default = {}
}

variable "revision" {
  description = "Commit that the images were built of (git rev-parse HEAD): a label of every model version."
  type        = string
  default     = ""
}

variable "packages" {
  description = "Folder where `make package` leaves <service>.zip, relative to this one."
  type        = string
  default     = "../../../../build"
}

variable "operators" {
  description = "Who may call POST /redeploy and GET /status: IAM members such as group:ml@example.com."
  type        = list(string)
  default     = []
}

variable "alert_emails" {
  description = "Who is told when something is wrong."
  type        = list(string)
  default     = []
}

variable "billing_account" {
  description = "Billing account for the budget; empty for none."
  type        = string
  default     = ""
}

variable "monthly_budget_usd" {
  description = "Budget of the project for a month, in US dollars."
  type        = number
  default     = 200
}

variable "delete_data" {
  description = "Whether `terraform destroy` may delete buckets that still hold data and models."
  type        = bool
  default     = false
}

variable "firebase_key_secret" {
  description = "Secret of Secret Manager with a service account's key for Firebase ML; leave it empty: none is needed."
  type        = string
  default     = ""
}
