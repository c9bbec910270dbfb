variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "buckets" {
  description = "Names of the buckets by what the product calls them, from modules/storage."
  type        = map(string)
}

