# What the service may do, each at the narrowest resource that Google Cloud knows; docs/permissions.md says why.

locals {
  # Which objects each entry with prefixes is for.
  only_below = {
    for each in concat(var.bucket_access, var.automl.bucket_access) : jsonencode(each) => join(" || ", concat(
      # To list is asked of the bucket, whatever the prefix, and an account that may not list is answered 403 for an
      # object that is missing, not 404. Everything else that these roles hold and we use is asked of an object.
      contains(["roles/storage.objectUser", "roles/storage.objectViewer"], each.role) ? [
        "resource.name == \"projects/_/buckets/${var.buckets[each.bucket]}\""
      ] : [],
      [for prefix in each.prefixes : "resource.name.startsWith(\"projects/_/buckets/${var.buckets[each.bucket]}/objects/${prefix}\")"]
    )) if length(each.prefixes) > 0
  }
}

resource "google_storage_bucket_iam_member" "access" {
  for_each = { for each in var.bucket_access : "${each.bucket}-${trimprefix(each.role, "roles/storage.")}" => each }

  bucket = var.buckets[each.value.bucket]
  role   = each.value.role
  member = google_service_account.runtime.member

  dynamic "condition" {
    for_each = length(each.value.prefixes) > 0 ? [each.value.prefixes] : []

    content {
      title      = "only-${join("-and-", [for prefix in condition.value : trimsuffix(prefix, "/")])}"
      expression = local.only_below[jsonencode(each.value)]
    }
  }
}

resource "google_pubsub_topic_iam_member" "publishes" {
  for_each = toset([for topic, each in module.topology.topics : topic if contains(each.publishers, var.name)])

  project = var.project
  topic   = var.topics[each.value]
  role    = "roles/pubsub.publisher"
  member  = google_service_account.runtime.member
}

# Jobs, models and endpoints have no IAM policies of their own that a service could be named in before they exist, and
# the predefined roles of Vertex AI are wide: hence a role of exactly these permissions, on the project.
resource "google_project_iam_custom_role" "vertex" {
  count = length(var.vertex_permissions) > 0 ? 1 : 0

  project     = var.project
  role_id     = "dualdeploy_${var.name}"
  title       = "Dual Deploy: ${var.name} on Vertex AI"
  description = "The permissions that services/${var.name} uses, and no others"
  permissions = var.vertex_permissions
}

resource "google_project_iam_member" "vertex" {
  count = length(var.vertex_permissions) > 0 ? 1 : 0

  project = var.project
  role    = google_project_iam_custom_role.vertex[0].name
  member  = google_service_account.runtime.member
}

resource "google_secret_manager_secret_iam_member" "reads_secret" {
  count = var.secret_file == null ? 0 : 1

  project   = var.project
  secret_id = var.secret_file.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.runtime.member
}

# Whoever deploys a new version must be allowed to act as the account that it runs as.
resource "google_service_account_iam_member" "releaser_acts" {
  count = length(var.releasers)

  service_account_id = google_service_account.runtime.id
  role               = "roles/iam.serviceAccountUser"
  member             = var.releasers[count.index]
}
