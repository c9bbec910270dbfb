# training_launcher: notices that data is complete, validates it, and starts two training jobs.

module "service" {
  source = "../event_service"

  name          = "training_launcher"
  project       = var.project
  region        = var.region
  topics        = var.topics
  buckets       = var.buckets
  labels        = var.labels
  releasers     = var.releasers
  source_object = var.source_object
  build         = var.build

  environment = {
    DATA_BUCKET              = var.buckets["data"]
    TRAINER_IMAGE            = var.trainer_image
    TRAINING_SERVICE_ACCOUNT = var.training_account.email
  }

  # Validation reads shards and decodes a sample of pictures.
  memory        = "2Gi"
  concurrency   = 4
  max_instances = var.max_instances

  bucket_access = [
    { bucket = "ledger", role = "roles/storage.objectUser" },
    { bucket = "data", role = "roles/storage.objectViewer" },
    { bucket = "config", role = "roles/storage.objectViewer" },
    # The job document, once; a repetition reads whether it is the same.
    { bucket = "models", role = "roles/storage.objectCreator", prefixes = ["runs/"] },
    { bucket = "models", role = "roles/storage.objectViewer", prefixes = ["results/", "runs/"] },
  ]
  vertex_permissions = [
    "aiplatform.customJobs.cancel",
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
    "aiplatform.customJobs.list",
  ]

  automl = var.automl ? {
    # The document of the job that prepares a data set, once, and what that job wrote last. Google's own account reads
    # the pictures and writes exports by the role that Google gives it (roles/aiplatform.serviceAgent).
    bucket_access = [
      { bucket = "models", role = "roles/storage.objectCreator", prefixes = ["automl/"] },
      { bucket = "models", role = "roles/storage.objectViewer", prefixes = ["automl/"] },
    ]
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
  } : null
}

# CreateCustomJob with a service account needs the right to act as it.
resource "google_service_account_iam_member" "acts_as_trainer" {
  service_account_id = var.training_account.id
  role               = "roles/iam.serviceAccountUser"
  member             = module.service.service_account.member
}
