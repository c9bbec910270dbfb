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
