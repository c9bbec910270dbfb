output "image_prefix" {
  description = "Images are pushed to <prefix>/<service>."
  value       = module.project.image_prefix
}

output "data_bucket" {
  description = "Drop TFRecord shards into gs://<this>/<dataset>/."
  value       = module.storage.buckets["data"]
}

output "config_bucket" {
  description = "Put <dataset>.yaml into gs://<this>/datasets/."
  value       = module.storage.buckets["config"]
}

output "configuration" {
  description = "What is deployed, and with which settings, all of them: what a later deployment does not name stays as it is."
  value = {
    project                = var.project
    region                 = var.region
    images                 = var.images
    sources                = var.sources
    revision               = var.revision
    repository             = var.repository
    operators              = var.operators
    monitoring             = var.monitoring
    alert_emails           = var.alert_emails
    billing_account        = var.billing_account
    monthly_budget         = var.monthly_budget
    delete_data            = var.delete_data
    firebase_ml            = var.firebase_ml
    firebase_key_secret    = var.firebase_key_secret
    firebase_bucket_linked = var.firebase_bucket_linked
    staged_rollouts        = var.staged_rollouts
    automl                 = var.automl
    gateway                = var.gateway
    console                = var.console
    browser_origins        = var.browser_origins
  }
}
