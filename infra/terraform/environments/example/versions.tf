terraform {
  required_version = ">= 1.9"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.0"
    }
  }

  # The state names everything that there is. `make deploy` makes the bucket, with versions, and names it to `init`.
  backend "gcs" {
    prefix = "dualdeploy"
  }
}

provider "google" {
  project = var.project
  region  = var.region
  # Some APIs, that of budgets among them, count a person's calls on a project, and must be told on which.
  user_project_override = true
  billing_project       = var.project
}
