output "address" {
  description = "https://… of the console, for gcloud run services proxy or Identity-Aware Proxy."
  value       = module.service.address
}

output "run_name" {
  description = "Name of the Cloud Run service, for logs and metrics."
  value       = module.service.run_name
}
