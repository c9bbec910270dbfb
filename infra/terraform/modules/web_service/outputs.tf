output "address" {
  description = "https://… of the service."
  value       = google_cloud_run_v2_service.service.uri
}

output "run_name" {
  description = "Name of the Cloud Run service, for logs, metrics and who may invoke it."
  value       = google_cloud_run_v2_service.service.name
}

output "service_account" {
  description = "The account that the service runs as: e-mail, IAM member."
  value = {
    email  = google_service_account.runtime.email
    member = google_service_account.runtime.member
  }
}
