output "service_account" {
  description = "The account that training jobs run as: id and e-mail."
  value = {
    id    = google_service_account.trainer.id
    email = google_service_account.trainer.email
  }
  # A job that starts before this would fail, and cost.
  depends_on = [
    google_storage_bucket_iam_member.reads_shards,
    google_storage_bucket_iam_member.reads_models,
    google_storage_bucket_iam_member.writes_artifacts,
  ]
}
