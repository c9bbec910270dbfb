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
    Images by digest: trainer, predictor, cloud_deployer, mobile_publisher, and console and gateway where they are on; `make deploy`
    fills them in. Only the very first step, which makes the repository that they are pushed to, does without.
  EOT
  type = object({
    trainer          = optional(string, "")
    predictor        = optional(string, "")
    cloud_deployer   = optional(string, "")
    mobile_publisher = optional(string, "")
    console          = optional(string, "")
    gateway          = optional(string, "")
  })
  default = {}
}

variable "revision" {
  description = "Commit that the images were built of (git rev-parse HEAD): a label of every model version."
  type        = string
  default     = ""
}

variable "sources" {
  description = "Packages of the functions in the bucket of sources, <service>/<digest>.zip; `make deploy` fills them in."
  type = object({
    training_launcher = optional(string, "")
    job_notifier      = optional(string, "")
  })
  default = {}
}

variable "repository" {
  description = <<-EOT
    Repository that Cloud Build deploys from when main changes, projects/…/locations/…/connections/…/repositories/…;
    empty for none. It is connected by hand: https://docs.cloud.google.com/build/docs/automating-builds/github/connect-repo-github
  EOT
  type        = string
  default     = ""

  validation {
    condition     = var.repository == "" || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.repository))
    error_message = "Name the repository as Cloud Build does: projects/…/locations/…/connections/…/repositories/…."
  }
}

variable "operators" {
  description = "Who may call POST /redeploy and GET /status: IAM members such as group:ml@example.com."
  type        = list(string)
  default     = []
}

variable "monitoring" {
  description = "Whether there are alerts and a dashboard."
  type        = bool
  default     = true
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

variable "monthly_budget" {
  description = "Budget of the project for a month, in the currency of the billing account."
  type        = number
  default     = 200
}

variable "delete_data" {
  description = "Whether `terraform destroy` may delete buckets that still hold data and models."
  type        = bool
  default     = false
}

variable "firebase_ml" {
  description = <<-EOT
    Whether data sets may publish through Firebase ML (publishing.channels: firebase-ml), which ends on 15 June 2027. The
    project must be a Firebase project then.
  EOT
  type        = bool
  default     = false
}

variable "automl" {
  description = "Whether data sets may be trained by Google's AutoML (training.method: automl), which costs by node hours."
  type        = bool
  default     = false
}

variable "staged_rollouts" {
  description = "Whether the project's Remote Config template may be written, for data sets with publishing.rollout."
  type        = bool
  default     = true
}

variable "firebase_key_secret" {
  description = "Secret of Secret Manager with a service account's key for Firebase ML; leave it empty: none is needed."
  type        = string
  default     = ""
}

variable "firebase_bucket_linked" {
  description = "Whether the bucket that phones read is linked to Firebase; its security rules can be released then."
  type        = bool
  default     = false
}

variable "gateway" {
  description = <<-EOT
    Whether apps without credentials of Google Cloud may ask the cloud model, as far as Firebase App Check attests them;
    null: no. `{}` takes every app of the project and no page of a browser; docs/http.md says what each key is.
  EOT
  type = object({
    apps            = optional(list(string), [])
    origins         = optional(list(string), [])
    require_user    = optional(bool, false)
    user_per_second = optional(number, 2)
    user_burst      = optional(number, 20)
    user_per_day    = optional(number, 1000)
    app_per_second  = optional(number, 50)
    max_instances   = optional(number, 3)
  })
  default = null
}

variable "console" {
  description = <<-EOT
    Whether operators have pages in the browser; null: no. `{}` is reached by `gcloud run services proxy console`. With
    Identity-Aware Proxy before it, iap_audience is /projects/<number>/locations/<region>/services/console. `simulator` says
    as which app of Firebase its simulator asks the gateway: docs/console.md.
  EOT
  type = object({
    iap_audience = optional(string, "")
    simulator = optional(object({
      app                = string
      api_key            = string
      debug_token_secret = string
    }))
  })
  default = null
}

variable "browser_origins" {
  description = "Origins (https://app.example.com) whose pages run the phone's model: they may read the bucket that phones read."
  type        = list(string)
  default     = []
}
