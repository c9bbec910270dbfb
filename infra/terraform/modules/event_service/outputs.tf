output "address" {
  description = "https://… of the service."
  value       = local.address
}

output "run_name" {
  description = "Name of the Cloud Run service, for logs and metrics."
  value       = local.run_name
}

output "service_account" {
  description = "The account that the service runs as: id, e-mail, IAM member."
  value = {
    id     = google_service_account.runtime.id
    email  = google_service_account.runtime.email
    member = google_service_account.runtime.member
  }
}
