# For data sets that AutoML trains: the golden set lies beside the pictures that were imported.

resource "google_storage_bucket_iam_member" "automl" {
  count = var.automl ? 1 : 0

  bucket = var.buckets["models"]
  role   = "roles/storage.objectViewer"
  member = module.service.service_account.member

  condition {
    title = "only-automl"
    # To list is asked of the bucket; without it a missing object is answered 403, not 404.
    expression = join(" || ", [
      "resource.name == \"projects/_/buckets/${var.buckets["models"]}\"",
      "resource.name.startsWith(\"projects/_/buckets/${var.buckets["models"]}/objects/automl/\")",
    ])
  }
}
