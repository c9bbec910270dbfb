# For data sets with staged rollouts (`publishing.rollout`).

resource "google_project_service" "remote_config" {
  count = var.staged_rollouts ? 1 : 0

  project            = var.project
  service            = "firebaseremoteconfig.googleapis.com"
  disable_on_destroy = false
}

# A project has one Remote Config template; the role is get and update of it, and nothing else that could change anything.
resource "google_project_iam_member" "remote_config" {
  count = var.staged_rollouts ? 1 : 0

  project = var.project
  role    = "roles/cloudconfig.admin"
  member  = module.service.service_account.member

  depends_on = [google_project_service.remote_config]
}
