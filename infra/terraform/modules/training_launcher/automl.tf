# For data sets that AutoML trains (training.method: automl). Google's own account reads the pictures and writes exports
# by the role that Google gives it (roles/aiplatform.serviceAgent).

locals {
  # The document of the job that prepares a data set, once, and what that job wrote last.
  automl_access = {
    "roles/storage.objectCreator" = "automl"
    "roles/storage.objectViewer"  = "automl"
  }
}

# Data sets and training pipelines have no policies of their own.
resource "google_project_iam_custom_role" "automl" {
  count = var.automl ? 1 : 0

  project     = var.project
  role_id     = "dualdeploy_training_launcher_automl"
  title       = "Dual Deploy: training_launcher and AutoML"
  description = "The permissions that services/training_launcher uses with AutoML, and no others"
  permissions = [
    "aiplatform.datasets.create",
    "aiplatform.datasets.delete",
    "aiplatform.datasets.get",
    "aiplatform.datasets.import",
    "aiplatform.datasets.list",
    "aiplatform.models.get",
    "aiplatform.trainingPipelines.cancel",
    "aiplatform.trainingPipelines.create",
    "aiplatform.trainingPipelines.get",
    "aiplatform.trainingPipelines.list",
  ]
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
