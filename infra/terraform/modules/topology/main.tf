# infra/topology.json, with the project and the region filled in. No resources: every module that needs the
# architecture reads it here, so that it is written down once.

locals {
  text = replace(
    replace(file("${path.module}/../../../topology.json"), "$${project}", var.project),
    "$${region}", var.region
  )
  topology = jsondecode(local.text)
}
