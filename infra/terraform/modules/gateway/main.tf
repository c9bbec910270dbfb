# gateway: answers apps that have no credentials of Google Cloud, as far as App Check attests them.

# Only a project that has such apps needs it. Registering them, and how each is attested, is done in Firebase's console.
resource "google_project_service" "app_check" {
  project            = var.project
  service            = "firebaseappcheck.googleapis.com"
  disable_on_destroy = false
}

module "service" {
  source = "../web_service"

  name      = "gateway"
  project   = var.project
  region    = var.region
  buckets   = var.buckets
  labels    = var.labels
  releasers = var.releasers
  image     = var.image

  environment = {
    FIREBASE_APPS   = join(",", var.settings.apps)
    ALLOWED_ORIGINS = join(",", var.settings.origins)
    REQUIRE_USER    = tostring(var.settings.require_user)
    USER_PER_SECOND = tostring(var.settings.user_per_second)
    USER_BURST      = tostring(var.settings.user_burst)
    USER_PER_DAY    = tostring(var.settings.user_per_day)
    APP_PER_SECOND  = tostring(var.settings.app_per_second)
  }

  # What serves, and nothing of how it came to be.
  reads                 = { ledger = ["serving/"] }
  checks_callers_itself = true
  # The service answers within six seconds by itself.
  timeout_seconds = 15
  # The threads of its Procfile. Its instances are what abuse costs at most, besides the replicas of the endpoints.
  concurrency   = 32
  max_instances = var.settings.max_instances
}

# Endpoints have no policy that this account could be named in before they exist.
resource "google_project_iam_custom_role" "vertex" {
  project     = var.project
  role_id     = "dualdeploy_gateway"
  title       = "Dual Deploy: gateway on Vertex AI"
  description = "The one permission that services/gateway uses"
  permissions = ["aiplatform.endpoints.predict"]
}

resource "google_project_iam_member" "vertex" {
  project = var.project
  role    = google_project_iam_custom_role.vertex.name
  member  = module.service.service_account.member
}
