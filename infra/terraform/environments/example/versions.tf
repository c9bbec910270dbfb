terraform {
  required_version = ">= 1.9"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
  }

  # The state names everything that there is. Where more than one person deploys, keep it in a bucket:
  #   backend "gcs" {
  #     bucket = "<project>-terraform-state"   # made by hand, with versioning
  #     prefix = "dualdeploy"
  #   }
}

provider "google" {
  project = var.project
  region  = var.region
}
