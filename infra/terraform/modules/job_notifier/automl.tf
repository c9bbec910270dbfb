# For data sets that AutoML trains: nobody else writes the result of a training pipeline.

locals {
  # The result, once, and which pictures its model was tested with.
  automl_access = {
    "roles/storage.objectCreator" = "results"
    "roles/storage.objectViewer"  = "automl"
  }
}

resource "google_project_iam_custom_role" "automl" {
  count = var.automl ? 1 : 0

  project     = var.project
  role_id     = "dualdeploy_job_notifier_automl"
  title       = "Dual Deploy: job_notifier and AutoML"
  description = "The permissions that services/job_notifier uses with AutoML, and no others"
  permissions = ["aiplatform.modelEvaluations.list", "aiplatform.trainingPipelines.get"]
}

resource "google_project_iam_member" "automl" {
  count = var.automl ? 1 : 0

  project = var.project
  role    = google_project_iam_custom_role.automl[0].name
  member  = module.service.service_account.member
}

resource "google_storage_bucket_iam_member" "automl" {
  for_each = var.automl ? local.automl_access : {}

  bucket = var.buckets["models"]
  role   = each.key
  member = module.service.service_account.member

  condition {
    title = "only-${each.value}"
    # To list is asked of the bucket; without it a missing object is answered 403, not 404.
    expression = join(" || ", concat(
      each.key == "roles/storage.objectViewer" ? ["resource.name == \"projects/_/buckets/${var.buckets["models"]}\""] : [],
      ["resource.name.startsWith(\"projects/_/buckets/${var.buckets["models"]}/objects/${each.value}/\")"],
    ))
  }
}
