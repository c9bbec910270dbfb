// Runs the table of routing cases on the router: `java … dualdeploy.RoutingCasesKt shared/fixtures/routing_cases.tsv`.

package dualdeploy

import java.io.File
import kotlin.system.exitProcess

fun main(arguments: Array<String>) {
    val lines = File(arguments[0]).readLines()
    val columns = lines[0].split("\t")
    val rows = lines.drop(1).map { line -> columns.zip(line.split("\t")).toMap() }
    val wrong = rows.groupBy { it.getValue("case") }.values.flatMap(::failures)
    wrong.forEach(::println)
    println("${rows.size - wrong.size} steps as expected, ${wrong.size} not")
    exitProcess(if (wrong.isEmpty()) 0 else 1)
}

private fun failures(steps: List<Map<String, String>>): List<String> {
    lateinit var step: Map<String, String>
    val labels = steps[0].getValue("ask_about").split(",").filter { it.isNotEmpty() }.toSet()
    val router = Router<String>(
        phone = { said(step.getValue("phone")) },
        cloud = { _, _, phone -> cloud(step.getValue("cloud"), phone, step.getValue("sent")) },
        policy = Policy(steps[0].getValue("threshold").toDouble(), labels, InferenceMode.of(steps[0].getValue("mode"))),
        budgetMs = 200,
        breaker = Breaker(now = { step.getValue("at").toDouble() }),
        mayAsk = { step.getValue("may_ask") },
    )
    return steps.mapNotNull { next ->
        step = next
        val found = try {
            told(router.classify("a picture"))
        } catch (error: CloudUnavailable) {
            "error ${error.reason}"
        } catch (error: IllegalStateException) {
            "error ${error.message}"
        }
        val expected = step.getValue("expected")
        if (found == expected) null else "${step["case"]} at ${step["at"]}: $found, not $expected"
    }
}

private fun cloud(cell: String, phone: PhoneSaid?, expected: String): Prediction {
    // Languages write the same number in different ways.
    fun parts(told: List<String>) = told.map { it.toDoubleOrNull() ?: it }
    val found = phone?.headers?.run { listOf("Label", "Confidence", "Kept").map { getValue("X-Phone-$it") } }
    if (parts(found ?: listOf("nothing")) != parts(expected.split(" "))) throw AssertionError("was sent $found, not $expected")
    return said(cell)
}

private fun said(cell: String): Prediction {
    val parts = cell.split(" ")
    when (cell) {
        "fails" -> throw IllegalStateException("device")
        "not asked" -> throw AssertionError("was asked")
        "network" -> throw java.io.IOException("no route to host")
        "hangs" -> Thread.sleep(60_000)
    }
    val status = parts[0].toIntOrNull() ?: return Prediction(parts[0], parts[1].toDouble())
    val reason = if (status == 429) "busy" else if (status >= 500) "server" else "refused"
    throw CloudUnavailable(reason, status, parts[1].toDouble())
}

private fun told(answer: Answer): String = listOfNotNull(
    answer.prediction.label,
    answer.source.name.lowercase(),
    answer.asked?.let { "asked=$it" },
    answer.fallback?.let { "fallback=$it" },
).joinToString(" ")
