# What phones may do with the bucket. Rules bind only a bucket that is linked to Firebase, which the stable provider cannot
# do: hence after that, by hand, and not before.
resource "google_project_service" "security_rules" {
  count = var.firebase_bucket_linked ? 1 : 0

  project            = var.project
  service            = "firebaserules.googleapis.com"
  disable_on_destroy = false
}

resource "google_firebaserules_ruleset" "security_rules" {
  count = var.firebase_bucket_linked ? 1 : 0

  project = var.project

  source {
    files {
      name    = "storage.rules"
      content = file("${path.module}/../../../firebase/storage.rules")
    }
  }

  depends_on = [google_project_service.security_rules]

  lifecycle {
    # A ruleset that is released cannot be deleted: the next one is released first.
    create_before_destroy = true
  }
}

resource "google_firebaserules_release" "security_rules" {
  count = var.firebase_bucket_linked ? 1 : 0

  project      = var.project
  name         = "firebase.storage/${var.buckets["firebase_storage"]}"
  ruleset_name = "projects/${var.project}/rulesets/${google_firebaserules_ruleset.security_rules[0].name}"
}
