# What a project needs before anything of ours can be in it: APIs, a place for images and sources, and the identity
# that builds functions.

locals {
  # Whoever can do without one has it in his own module: where Google refuses it, the rest is deployed all the same.
  apis = toset([
    "aiplatform.googleapis.com",
    "artifactregistry.googleapis.com",
    # Asked by `make deploy` before anything else; an account of a project needs it on in its own project.
    "cloudbilling.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudquotas.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "cloudscheduler.googleapis.com",
    "eventarc.googleapis.com",
    "firebase.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "storage.googleapis.com",
  ])
}

resource "google_project_service" "api" {
  for_each = local.apis

  project = var.project
  service = each.value
  # Somebody else in the project may need it.
  disable_on_destroy = false
}

resource "google_artifact_registry_repository" "images" {
  #checkov:skip=CKV_GCP_84:Encrypted with keys of Google; whoever must hold the keys adds kms_key_name here
  project       = var.project
  location      = var.region
  repository_id = "dualdeploy"
  description   = "Images of Dual Deploy: the trainer, the predictor and the services"
  format        = "DOCKER"
  labels        = var.labels

  # A model on an endpoint pulls its image again whenever the endpoint scales: the newest ones of each image stay,
  # however old they are.
  cleanup_policies {
    id     = "keep-the-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 20
    }
  }
  cleanup_policies {
    id     = "delete-after-half-a-year"
    action = "DELETE"
    condition {
      tag_state  = "ANY"
      older_than = "15552000s"
    }
  }

  depends_on = [google_project_service.api]
}

# Functions and images are built from packages in a bucket; `make package` makes the same bytes of the same code.
resource "google_storage_bucket" "sources" {
  #checkov:skip=CKV_GCP_62:Cloud Audit Logs tell who read or changed what; usage logs would need a bucket of their own
  #checkov:skip=CKV_GCP_78:Names hold the digest of the content, so nothing is ever replaced
  project                     = var.project
  name                        = "${var.project}-dualdeploy-sources"
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  # Only what `make package` can make again.
  force_destroy = true
  labels        = var.labels

  lifecycle_rule {
    condition {
      age = 365
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_service_account" "builder" {
  project      = var.project
  account_id   = "dualdeploy-builder"
  display_name = "Dual Deploy: builds functions and images"
  depends_on   = [google_project_service.api]
}

# What a build does: fetch the source, write its log, push the image that it makes.
resource "google_storage_bucket_iam_member" "builder_reads_sources" {
  bucket = google_storage_bucket.sources.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.builder.member
}

data "google_project" "this" {
  project_id = var.project
}

# Cloud Functions copies the package into a bucket of its own, which it makes with the first function, and the build
# fetches it from there: hence on the project, and only for that bucket.
resource "google_project_iam_member" "builder_reads_copied_sources" {
  project = var.project
  role    = "roles/storage.objectViewer"
  member  = google_service_account.builder.member

  condition {
    title      = "only-sources-of-functions"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}/\")"
  }
}

resource "google_project_iam_member" "builder_writes_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.builder.member
}

resource "google_artifact_registry_repository_iam_member" "builder_pushes_images" {
  project    = var.project
  location   = var.region
  repository = google_artifact_registry_repository.images.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.builder.member
}
