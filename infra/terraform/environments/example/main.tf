# The whole system in one project. Each of the four services is one block: it can be deployed alone
# (make deploy SERVICE=job_notifier), and without it the rest is still valid.

locals {
  labels    = { app = "dualdeploy" }
  releasers = module.delivery[*].releaser

  # The console's account by its name, which two services have to know before there is a console.
  console   = var.console == null ? "" : "console@${var.project}.iam.gserviceaccount.com"
  operators = concat(var.operators, var.console == null ? [] : ["serviceAccount:${local.console}"])
}

module "project" {
  source  = "../../modules/project"
  project = var.project
  region  = var.region
  labels  = local.labels
}

# Only where a repository is connected: without one there is nobody who deploys but people.
module "delivery" {
  source     = "../../modules/delivery"
  count      = var.repository == "" ? 0 : 1
  project    = module.project.id
  region     = var.region
  repository = var.repository
  build      = module.project.build
}

module "messaging" {
  source  = "../../modules/messaging"
  project = module.project.id
  region  = var.region
  labels  = local.labels
}

module "storage" {
  source      = "../../modules/storage"
  project     = module.project.id
  region      = var.region
  labels      = local.labels
  topics      = module.messaging.topics
  delete_data = var.delete_data

  browser_origins = var.browser_origins
}

module "training" {
  source  = "../../modules/training"
  project = module.project.id
  buckets = module.storage.buckets
  automl  = var.automl
}

module "training_launcher" {
  source           = "../../modules/training_launcher"
  project          = module.project.id
  region           = var.region
  labels           = local.labels
  releasers        = local.releasers
  topics           = module.messaging.topics
  buckets          = module.storage.buckets
  build            = module.project.build
  source_object    = var.sources.training_launcher
  automl           = var.automl
  trainer_image    = var.images.trainer
  training_account = module.training.service_account
}

module "job_notifier" {
  source        = "../../modules/job_notifier"
  project       = module.project.id
  region        = var.region
  labels        = local.labels
  releasers     = local.releasers
  topics        = module.messaging.topics
  buckets       = module.storage.buckets
  build         = module.project.build
  source_object = var.sources.job_notifier
  automl        = var.automl
}

module "cloud_deployer" {
  source           = "../../modules/cloud_deployer"
  project          = module.project.id
  region           = var.region
  labels           = local.labels
  releasers        = local.releasers
  topics           = module.messaging.topics
  buckets          = module.storage.buckets
  image            = var.images.cloud_deployer
  predictor_image  = var.images.predictor
  trainer_image    = var.images.trainer
  training_account = module.training.service_account
  revision         = var.revision
  operators        = local.operators
  console_account  = local.console
  automl           = var.automl
}

module "mobile_publisher" {
  source    = "../../modules/mobile_publisher"
  project   = module.project.id
  region    = var.region
  labels    = local.labels
  releasers = local.releasers
  topics    = module.messaging.topics
  buckets   = module.storage.buckets
  image     = var.images.mobile_publisher
  operators = local.operators

  console_account = local.console

  firebase_ml            = var.firebase_ml
  firebase_key_secret    = var.firebase_key_secret
  firebase_bucket_linked = var.firebase_bucket_linked
  staged_rollouts        = var.staged_rollouts
  automl                 = var.automl
}

# Only where operators want pages beside the commands.
module "console" {
  source    = "../../modules/console"
  count     = var.console == null ? 0 : 1
  project   = module.project.id
  region    = var.region
  labels    = local.labels
  releasers = local.releasers
  buckets   = module.storage.buckets
  image     = var.images.console
  operators = var.operators
  settings  = var.console

  has_gateway = var.gateway != null
}

# Only where apps without credentials of Google Cloud ask the cloud model.
module "gateway" {
  source    = "../../modules/gateway"
  count     = var.gateway == null ? 0 : 1
  project   = module.project.id
  region    = var.region
  labels    = local.labels
  releasers = local.releasers
  buckets   = module.storage.buckets
  image     = var.images.gateway
  settings  = var.gateway
}

module "monitoring" {
  source       = "../../modules/monitoring"
  count        = var.monitoring ? 1 : 0
  project      = module.project.id
  region       = var.region
  labels       = local.labels
  alert_emails = var.alert_emails
}

# Only where a billing account is named: few people may read one.
module "budget" {
  source          = "../../modules/budget"
  count           = var.billing_account == "" ? 0 : 1
  project         = module.project.id
  labels          = local.labels
  alert_emails    = var.alert_emails
  billing_account = var.billing_account
  monthly_budget  = var.monthly_budget
}
