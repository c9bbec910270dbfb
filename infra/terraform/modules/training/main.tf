# Whom training jobs run as. Without an account of their own they would run as Vertex AI's Custom Code Service Agent,
# which reads and writes every bucket of the project.

locals {
  # Artifacts, results and evaluations; what is published to phones is not the trainer's to change.
  writes = ["runs/", "results/", "evaluations/"]
}

resource "google_service_account" "trainer" {
  project      = var.project
  account_id   = "trainer"
  display_name = "Dual Deploy: training jobs"
}

resource "google_storage_bucket_iam_member" "reads_shards" {
  bucket = var.buckets["data"]
  role   = "roles/storage.objectViewer"
  member = google_service_account.trainer.member
}

# Networks that people wrote themselves; the configurations beside them are not the trainer's to read.
resource "google_storage_bucket_iam_member" "reads_modules" {
  bucket = var.buckets["config"]
  role   = "roles/storage.objectViewer"
  member = google_service_account.trainer.member

  condition {
    title      = "only-modules"
    expression = "resource.name.startsWith(\"projects/_/buckets/${var.buckets["config"]}/objects/modules/\")"
  }
}

# Lists what an earlier attempt of the same job left, reads its job document and ImageNet weights that were put there.
resource "google_storage_bucket_iam_member" "reads_models" {
  bucket = var.buckets["models"]
  role   = "roles/storage.objectViewer"
  member = google_service_account.trainer.member
}

resource "google_storage_bucket_iam_member" "writes_artifacts" {
  bucket = var.buckets["models"]
  # Replacing what an earlier attempt left takes the right to delete, which objectCreator lacks.
  role   = "roles/storage.objectUser"
  member = google_service_account.trainer.member

  condition {
    title = "only-runs-and-results-and-evaluations"
    expression = join(" || ", [
      for prefix in local.writes :
      "resource.name.startsWith(\"projects/_/buckets/${var.buckets["models"]}/objects/${prefix}\")"
    ])
  }
}

# Pictures and files that AutoML imports, over those of an earlier attempt.
resource "google_storage_bucket_iam_member" "automl" {
  count = var.automl ? 1 : 0

  bucket = var.buckets["models"]
  role   = "roles/storage.objectUser"
  member = google_service_account.trainer.member

  condition {
    title      = "only-automl"
    expression = "resource.name.startsWith(\"projects/_/buckets/${var.buckets["models"]}/objects/automl/\")"
  }
}
