output "address" {
  description = "https://… of the service, for apps."
  value       = module.service.address
}

output "run_name" {
  description = "Name of the Cloud Run service, for logs and metrics."
  value       = module.service.run_name
}
