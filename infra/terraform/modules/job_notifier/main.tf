# job_notifier: hears that a training job may have ended, asks Vertex AI, and tells the others.

module "service" {
  source = "../event_service"

  name          = "job_notifier"
  project       = var.project
  region        = var.region
  topics        = var.topics
  buckets       = var.buckets
  labels        = var.labels
  releasers     = var.releasers
  source_object = var.source_object
  build         = var.build
  max_instances = var.max_instances

  bucket_access = [
    { bucket = "ledger", role = "roles/storage.objectUser" },
    { bucket = "models", role = "roles/storage.objectViewer", prefixes = ["results/"] },
  ]
  vertex_permissions = ["aiplatform.customJobs.get"]

  automl = var.automl ? {
    # Nothing else writes the result of a training pipeline; and which pictures its model was tested with.
    bucket_access = [
      { bucket = "models", role = "roles/storage.objectCreator", prefixes = ["results/"] },
      { bucket = "models", role = "roles/storage.objectViewer", prefixes = ["automl/"] },
    ]
    permissions = ["aiplatform.modelEvaluations.list", "aiplatform.trainingPipelines.get"]
  } : null
}
