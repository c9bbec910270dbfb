# console: pages for operators. Its buttons call cloud_deployer and mobile_publisher, which let its account in as an
# operator (var.operators of theirs).

data "google_project" "this" {
  project_id = var.project
}

locals {
  # The address that Cloud Run gives to a service of this name before it is made: they may be deployed in any order.
  hosts = "${data.google_project.this.number}.${var.region}.run.app"
}

module "service" {
  source = "../web_service"

  name      = "console"
  project   = var.project
  region    = var.region
  buckets   = var.buckets
  labels    = var.labels
  releasers = var.releasers
  image     = var.image

  environment = {
    CLOUD_DEPLOYER_URL   = "https://cloud-deployer-${local.hosts}"
    MOBILE_PUBLISHER_URL = "https://mobile-publisher-${local.hosts}"
    IAP_AUDIENCE         = var.settings.iap_audience

    # The simulator: held-out pictures, what phones download, and the gateway where there is one.
    MODELS_BUCKET           = var.buckets["models"]
    FIREBASE_STORAGE_BUCKET = var.buckets["firebase_storage"]
    GATEWAY_URL             = var.has_gateway ? "https://gateway-${local.hosts}" : ""
    APP_CHECK_APP           = try(var.settings.simulator.app, "")
    FIREBASE_API_KEY        = try(var.settings.simulator.api_key, "")

    # Only who may invoke it gets in, and Cloud Run has checked their token.
    CLOUD_RUN_CHECKS_TOKENS = "true"
  }

  secrets = var.settings.simulator == null ? {} : { APP_CHECK_DEBUG_TOKEN = var.settings.simulator.debug_token_secret }
  reads   = { ledger = [], models = ["results/", "runs/"] }

  checks_callers_itself = false
  # A button waits for the answer of a service, twenty seconds at most.
  timeout_seconds = 60
  concurrency     = 8
  max_instances   = 2
}

# How many dead letters there are. Metrics have no policies of their own, and Cloud Monitoring has no narrower role.
resource "google_project_iam_member" "reads_metrics" {
  project = var.project
  role    = "roles/monitoring.viewer"
  member  = module.service.service_account.member
}

resource "google_cloud_run_v2_service_iam_member" "operator" {
  for_each = toset(var.operators)

  project  = var.project
  location = var.region
  name     = module.service.run_name
  role     = "roles/run.invoker"
  member   = each.value

  lifecycle {
    precondition {
      condition     = !contains(["allUsers", "allAuthenticatedUsers"], each.value)
      error_message = "Whoever may open the console may replace a model: name users, groups or service accounts."
    }
  }
}
