# Modules that take the project from here wait for the APIs.
output "id" {
  description = "Id of the project, once its APIs are enabled."
  value       = var.project
  depends_on  = [google_project_service.api]
}

output "build" {
  description = "How functions are built: the bucket of sources, the repository of images, who builds."
  value = {
    source_bucket   = google_storage_bucket.sources.name
    repository      = google_artifact_registry_repository.images.id
    service_account = google_service_account.builder.id
  }
  depends_on = [
    google_storage_bucket_iam_member.builder_reads_sources,
    google_project_iam_member.builder_reads_copied_sources,
    google_project_iam_member.builder_writes_logs,
    google_artifact_registry_repository_iam_member.builder_pushes_images,
  ]
}

output "image_prefix" {
  description = "Images are pushed to <prefix>/<service>."
  value       = "${var.region}-docker.pkg.dev/${var.project}/${google_artifact_registry_repository.images.repository_id}"
}
