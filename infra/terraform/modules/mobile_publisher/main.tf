# mobile_publisher: converts a trained model to TFLite, checks the file, and publishes it through Firebase ML.

module "service" {
  source = "../event_service"

  name          = "mobile_publisher"
  project       = var.project
  region        = var.region
  topics        = var.topics
  buckets       = var.buckets
  labels        = var.labels
  releasers     = var.releasers
  image         = var.image
  operators     = var.operators
  max_instances = var.max_instances

  environment = {
    DATA_BUCKET             = var.buckets["data"]
    FIREBASE_STORAGE_BUCKET = var.buckets["firebase_storage"]
    # Out of 4 GiB: the files of the model lie in memory too, because /tmp on Cloud Run is memory.
    CONVERSION_MEMORY_MB = "2500"
  }

  secret_file = var.firebase_key_secret == "" ? null : {
    secret   = var.firebase_key_secret
    variable = "FIREBASE_KEY_FILE"
  }

  cpu    = 2
  memory = "4Gi"
  # Two conversions at once would not fit; a tick of the clock meanwhile gets an instance of its own.
  concurrency = 1

  bucket_access = [
    { bucket = "ledger", role = "roles/storage.objectUser" },
    { bucket = "config", role = "roles/storage.objectViewer" },
    # Held-out shards are read again, for the check of the file itself.
    { bucket = "data", role = "roles/storage.objectViewer" },
    { bucket = "models", role = "roles/storage.objectViewer" },
    # Published files have names made of their content: creating is enough, nothing is ever replaced.
    { bucket = "models", role = "roles/storage.objectCreator", prefixes = ["mobile/"] },
    # Files that never change, and the pointer, which is replaced.
    { bucket = "firebase_storage", role = "roles/storage.objectUser", prefixes = ["models/"] },
  ]
}

# Firebase ML has no resource with a policy of its own.
resource "google_project_iam_member" "publishes_models" {
  project = var.project
  role    = "roles/firebaseml.admin"
  member  = module.service.service_account.member
}

# A project has one Remote Config template; the role is get and update of it, and nothing else that could change anything.
# Without staged rollouts (`publishing.rollout` of every data set) it is not needed.
resource "google_project_iam_member" "stages_rollouts" {
  count = var.staged_rollouts ? 1 : 0

  project = var.project
  role    = "roles/cloudconfig.admin"
  member  = module.service.service_account.member
}

# Firebase fetches the file by a signed URL, and signing with no key means asking IAM to sign as oneself.
resource "google_service_account_iam_member" "signs_as_itself" {
  service_account_id = module.service.service_account.id
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = module.service.service_account.member
}

# What phones may do with the bucket. Rules bind only a bucket that is linked to Firebase, which the stable provider cannot
# do: hence after that, by hand, and not before.
resource "google_firebaserules_ruleset" "phones" {
  count = var.firebase_bucket_linked ? 1 : 0

  project = var.project

  source {
    files {
      name    = "storage.rules"
      content = file("${path.module}/../../../firebase/storage.rules")
    }
  }

  lifecycle {
    # A ruleset that is released cannot be deleted: the next one is released first.
    create_before_destroy = true
  }
}

resource "google_firebaserules_release" "phones" {
  count = var.firebase_bucket_linked ? 1 : 0

  project      = var.project
  name         = "firebase.storage/${var.buckets["firebase_storage"]}"
  ruleset_name = "projects/${var.project}/rulesets/${google_firebaserules_ruleset.phones[0].name}"
}
