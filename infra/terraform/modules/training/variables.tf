variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "buckets" {
  description = "Names of the buckets by what the product calls them, from modules/storage."
  type        = map(string)
}

variable "automl" {
  description = "Whether data sets may be trained by AutoML."
  type        = bool
  default     = false
}
