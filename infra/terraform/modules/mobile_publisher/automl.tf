# For data sets that AutoML trains: Vertex AI exports the file for phones, into the models bucket, as its own account.

resource "google_project_iam_custom_role" "automl" {
  count = var.automl ? 1 : 0

  project     = var.project
  role_id     = "dualdeploy_mobile_publisher_automl"
  title       = "Dual Deploy: mobile_publisher and AutoML"
  description = "The permissions that services/mobile_publisher uses with AutoML, and no others"
  permissions = ["aiplatform.models.export", "aiplatform.models.get"]
}

resource "google_project_iam_member" "automl" {
  count = var.automl ? 1 : 0

  project = var.project
  role    = google_project_iam_custom_role.automl[0].name
  member  = module.service.service_account.member
}
