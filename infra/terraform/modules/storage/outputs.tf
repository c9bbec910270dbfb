output "buckets" {
  description = "Names of the buckets by what the product calls them: data, config, ledger, models."
  value       = { for key, bucket in google_storage_bucket.bucket : key => bucket.name }
}
