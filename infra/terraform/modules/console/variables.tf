variable "project" {
  description = "Id of the Google Cloud project."
  type        = string
}

variable "region" {
  description = "Region of everything, Vertex AI included."
  type        = string
}

variable "buckets" {
  description = "Names of the buckets by what the product calls them, from modules/storage."
  type        = map(string)
}

variable "image" {
  description = "Container image of the service, by digest."
  type        = string
}

variable "operators" {
  description = "Who may open the console: IAM members such as group:ml@example.com."
  type        = list(string)
}

variable "settings" {
  description = <<-EOT
    How the console is reached: iap_audience where Identity-Aware Proxy stands before it. As which app of Firebase its
    simulator asks the gateway: its id, its API key, and the secret with a debug token that is registered for it.
  EOT
  type = object({
    iap_audience = string
    simulator = optional(object({
      app                = string
      api_key            = string
      debug_token_secret = string
    }))
  })
}

variable "has_gateway" {
  description = "Whether there is a gateway, which the simulator asks."
  type        = bool
}

variable "releasers" {
  description = "IAM members that deploy new versions for a commit on main, from modules/delivery."
  type        = list(string)
}

variable "labels" {
  description = "Labels on everything that takes labels."
  type        = map(string)
}
