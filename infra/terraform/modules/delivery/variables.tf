variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of everything, Vertex AI included."
  type        = string
}

variable "repository" {
  description = "Repository that is connected to Cloud Build, whose branch main is deployed."
  type        = string
}

variable "build" {
  description = "How functions and images are built, from modules/project."
  type = object({
    source_bucket   = string
    repository      = string
    service_account = string
  })
}
