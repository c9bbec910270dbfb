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
  description = "What is deployed, and with which settings: `make deploy SERVICE=x` changes one entry of it and nothing else."
  value = {
    project            = var.project
    region             = var.region
    images             = var.images
    sources            = var.sources
    revision           = var.revision
    repository         = var.repository
    operators          = var.operators
    alert_emails       = var.alert_emails
    billing_account    = var.billing_account
    monthly_budget_usd = var.monthly_budget_usd
    delete_data        = var.delete_data
  }
}
