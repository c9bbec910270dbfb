output "releaser" {
  description = "IAM member that deploys new versions."
  value       = google_service_account.releaser.member
}
