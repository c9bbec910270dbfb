# mobile_publisher: converts a trained model to TFLite, checks the file, and publishes it to phones.
# What is optional of Firebase is in files of its own.

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
    CONSOLE_SERVICE_ACCOUNT = var.console_account
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

  automl = var.automl ? {
    # Vertex AI exports the file for phones, into the models bucket, as its own account.
    permissions = ["aiplatform.models.export", "aiplatform.models.get"]
  } : null
}
