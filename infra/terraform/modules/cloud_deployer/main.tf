# cloud_deployer: brings a trained model to a Vertex AI endpoint.

module "service" {
  source = "../event_service"

  name          = "cloud_deployer"
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
    CONSOLE_SERVICE_ACCOUNT  = var.console_account
    GIT_REVISION             = var.revision
    PREDICTOR_IMAGE          = var.predictor_image
    TRAINER_IMAGE            = var.trainer_image
    TRAINING_SERVICE_ACCOUNT = var.training_account.email
  }

  bucket_access = [
    { bucket = "ledger", role = "roles/storage.objectUser" },
    { bucket = "config", role = "roles/storage.objectViewer" },
    # The result, the golden set, and the artifact that the upload names.
    { bucket = "models", role = "roles/storage.objectViewer", prefixes = ["results/", "runs/"] },
    # Model cards, which are written anew when a release ends; what a job that measures the live model is to do.
    { bucket = "models", role = "roles/storage.objectUser", prefixes = ["cards/", "evaluations/"] },
  ]
  # Looking at a long-running operation takes the right to get what it works on.
  vertex_permissions = [
    "aiplatform.customJobs.cancel",
    "aiplatform.customJobs.create",
    "aiplatform.customJobs.get",
    "aiplatform.customJobs.list",
    "aiplatform.endpoints.create",
    "aiplatform.endpoints.delete",
    "aiplatform.endpoints.deploy",
    "aiplatform.endpoints.get",
    "aiplatform.endpoints.list",
    "aiplatform.endpoints.predict",
    "aiplatform.endpoints.undeploy",
    "aiplatform.endpoints.update",
    "aiplatform.modelEvaluations.import",
    "aiplatform.modelEvaluations.list",
    "aiplatform.models.delete",
    "aiplatform.models.get",
    "aiplatform.models.list",
    "aiplatform.models.update",
    "aiplatform.models.upload",
  ]

  automl = var.automl ? {
    # The golden set lies beside the pictures that were imported.
    bucket_access = [{ bucket = "models", role = "roles/storage.objectViewer", prefixes = ["automl/"] }]
  } : null
}

# Error rate and latency of a deployed model, for data sets with serving.canary.monitoring. Metrics have no policies of
# their own, and Cloud Monitoring has no narrower role.
resource "google_project_iam_member" "reads_metrics" {
  project = var.project
  role    = "roles/monitoring.viewer"
  member  = module.service.service_account.member
}

# CreateCustomJob with a service account needs the right to act as it.
resource "google_service_account_iam_member" "acts_as_trainer" {
  service_account_id = var.training_account.id
  role               = "roles/iam.serviceAccountUser"
  member             = module.service.service_account.member
}
