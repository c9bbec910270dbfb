# Deploys new versions of the code when main changes, with the steps of `make deploy`. Infrastructure it cannot change:
# `make deploy` refuses a plan that would, and the account has no right to.

locals {
  state_bucket = "${var.project}-dualdeploy-state"
}

resource "google_service_account" "releaser" {
  project      = var.project
  account_id   = "dualdeploy-releaser"
  display_name = "Dual Deploy: deploys what changed on main"
}

# Services are made after this account, and an operation has no policy of its own: hence on the project, and a role of
# exactly these permissions. None of them creates, deletes, or grants.
resource "google_project_iam_custom_role" "releaser" {
  project     = var.project
  role_id     = "dualdeploy_releaser"
  title       = "Dual Deploy: new versions of services"
  description = "Replaces the image of a service and the package of a function, and waits for it"
  permissions = [
    "cloudbuild.builds.create",
    "cloudbuild.builds.get",
    "cloudfunctions.functions.get",
    "cloudfunctions.functions.update",
    "cloudfunctions.operations.get",
    "resourcemanager.projects.get",
    "run.operations.get",
    "run.services.get",
    "run.services.update",
    "serviceusage.services.list",
    "serviceusage.services.use",
  ]
}

resource "google_project_iam_member" "releaser_deploys" {
  project = var.project
  role    = google_project_iam_custom_role.releaser.name
  member  = google_service_account.releaser.member
}

resource "google_project_iam_member" "releaser_writes_logs" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.releaser.member
}

resource "google_storage_bucket_iam_member" "releaser_leaves_sources" {
  bucket = var.build.source_bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.releaser.member
}

# gcloud looks whether the bucket that it leaves sources in is there.
resource "google_storage_bucket_iam_member" "releaser_sees_sources" {
  bucket = var.build.source_bucket
  role   = "roles/storage.bucketViewer"
  member = google_service_account.releaser.member
}

# `make deploy` made the bucket before there was any Terraform.
resource "google_storage_bucket_iam_member" "releaser_keeps_state" {
  bucket = local.state_bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.releaser.member
}

resource "google_artifact_registry_repository_iam_member" "releaser_finds_images" {
  project    = var.project
  location   = var.region
  repository = basename(var.build.repository)
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.releaser.member
}

resource "google_service_account_iam_member" "releaser_builds" {
  service_account_id = var.build.service_account
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.releaser.member
}

resource "google_cloudbuild_trigger" "main" {
  project         = var.project
  location        = var.region
  name            = "dualdeploy-main"
  description     = "Deploys what changed on main"
  filename        = "infra/deploy/cloudbuild.yaml"
  service_account = google_service_account.releaser.id

  repository_event_config {
    repository = var.repository
    push {
      branch = "^main$"
    }
  }

  substitutions = {
    _REGION = var.region
  }
}
