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

variable "name" {
  description = "Name of the service in the topology, for example job_notifier."
  type        = string
}

variable "image" {
  description = "Container image, by digest; for a service of kind \"service\"."
  type        = string
  default     = null
}

variable "source_object" {
  description = "Name of the package in the bucket of sources, <service>/<digest>.zip; for a service of kind \"function\"."
  type        = string
  default     = null
}

variable "build" {
  description = "How functions are built, from modules/project; for a service of kind \"function\"."
  type = object({
    source_bucket   = string
    repository      = string
    service_account = string
  })
  default = null
}

variable "environment" {
  description = "Environment variables that this service reads besides project, region and buckets."
  type        = map(string)
  default     = {}
}

variable "secret_file" {
  description = "A secret of Secret Manager to mount as a file, and the environment variable that names the file."
  type = object({
    secret   = string
    variable = string
  })
  default = null
}

variable "bucket_access" {
  description = <<-EOT
    What the service may do in which bucket. With prefixes the role holds for objects whose names begin with one of
    them; a role that may list objects lists all of the bucket.
  EOT
  type = list(object({
    bucket   = string
    role     = string
    prefixes = optional(list(string), [])
  }))
}

variable "vertex_permissions" {
  description = "Permissions on Vertex AI that the service uses; a role of its own is made of them."
  type        = list(string)
  default     = []
}

variable "automl" {
  description = "What the service may do besides where data sets are trained by AutoML."
  type = object({
    permissions = optional(list(string), [])
    bucket_access = optional(list(object({
      bucket   = string
      role     = string
      prefixes = list(string)
    })), [])
  })
  default  = {}
  nullable = false
}

variable "cpu" {
  description = "Processors of an instance."
  type        = number
  default     = 1
}

variable "memory" {
  description = "Memory of an instance, for example 512Mi."
  type        = string
  default     = "512Mi"
}

variable "concurrency" {
  description = "Requests that one instance handles at once."
  type        = number
  default     = 8
}

variable "max_instances" {
  description = "Upper limit of instances; what comes above it waits and is delivered again."
  type        = number
  default     = 10
}

variable "operators" {
  description = "Who may call the HTTP interface (POST /redeploy, GET /status): IAM members such as group:ml@example.com."
  type        = list(string)
  default     = []
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
