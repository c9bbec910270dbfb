# For data sets that AutoML trains (training.method: automl). Resources of their own: what Google refuses of them stops
# nothing else (infra/deploy/shipping/release.py knows them by this name).

resource "google_project_iam_custom_role" "automl" {
  count = length(var.automl.permissions) > 0 ? 1 : 0

  project     = var.project
  role_id     = "dualdeploy_${var.name}_automl"
  title       = "Dual Deploy: ${var.name} and AutoML"
  description = "The permissions that services/${var.name} uses with AutoML, and no others"
  permissions = var.automl.permissions
}

resource "google_project_iam_member" "automl" {
  count = length(var.automl.permissions) > 0 ? 1 : 0

  project = var.project
  role    = google_project_iam_custom_role.automl[0].name
  member  = google_service_account.runtime.member
}

resource "google_storage_bucket_iam_member" "automl" {
  for_each = { for each in var.automl.bucket_access : each.role => each }

  bucket = var.buckets[each.value.bucket]
  role   = each.value.role
  member = google_service_account.runtime.member

  condition {
    title      = "only-${join("-and-", [for prefix in each.value.prefixes : trimsuffix(prefix, "/")])}"
    expression = local.only_below[jsonencode(each.value)]
  }
}
