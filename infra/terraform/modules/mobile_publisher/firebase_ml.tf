# For data sets that publish through Firebase ML, which ends on 15 June 2027.

resource "google_project_service" "firebase_ml" {
  count = var.firebase_ml ? 1 : 0

  project            = var.project
  service            = "firebaseml.googleapis.com"
  disable_on_destroy = false
}

# Firebase ML has no resource with a policy of its own.
resource "google_project_iam_member" "firebase_ml" {
  count = var.firebase_ml ? 1 : 0

  project = var.project
  role    = "roles/firebaseml.admin"
  member  = module.service.service_account.member

  depends_on = [google_project_service.firebase_ml]
}

# Firebase fetches the file by a signed URL, and signing with no key means asking IAM to sign as oneself.
resource "google_service_account_iam_member" "firebase_ml" {
  count = var.firebase_ml ? 1 : 0

  service_account_id = module.service.service_account.id
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = module.service.service_account.member
}
