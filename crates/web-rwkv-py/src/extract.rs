//! What `Model.extract` takes and gives.

use std::sync::Arc;

use pyo3::{
    exceptions::{PyKeyError, PyTypeError},
    prelude::*,
    types::{PyDict, PyMapping, PyType},
};
use web_rwkv_gguf as engine;

use crate::{model::Open, state::State};

/// A schema as an argument: a mapping of names to descriptions.
pub(crate) fn schema(obj: &Bound<'_, PyAny>) -> PyResult<Vec<engine::Field>> {
    let field = |item: Bound<'_, PyAny>| match item.extract::<(String, String)>() {
        Ok((name, description)) => Ok(engine::Field { name, description }),
        Err(_) => Err(PyTypeError::new_err(format!(
            "schema: expected a name and its description, both str, found {}",
            item.repr()?
        ))),
    };
    obj.cast::<PyMapping>()?.items()?.iter().map(field).collect()
}

/// How long each step of an extraction took, in seconds.
#[pyclass(module = "web_rwkv_py", frozen, get_all, from_py_object)]
#[derive(Clone, Copy)]
pub(crate) struct Timings {
    /// Document and fields to tokens.
    tokenize: f64,
    /// Reading the document.
    doc_state: f64,
    /// Embedding all fields.
    field_analysis: f64,
    /// Decoding all values.
    values: f64,
}

#[pymethods]
impl Timings {
    #[new]
    fn new(tokenize: f64, doc_state: f64, field_analysis: f64, values: f64) -> Self {
        Self { tokenize, doc_state, field_analysis, values }
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> (Bound<'py, PyType>, (f64, f64, f64, f64)) {
        let &Self { tokenize, doc_state, field_analysis, values } = slf.get();
        (slf.get_type(), (tokenize, doc_state, field_analysis, values))
    }

    fn __repr__(&self) -> String {
        let Self { tokenize, doc_state, field_analysis, values } = self;
        format!(
            "Timings(tokenize={tokenize:.6}, doc_state={doc_state:.6}, field_analysis={field_analysis:.6}, \
             values={values:.6})"
        )
    }
}

/// What was found for one field.
#[pyclass(module = "web_rwkv_py", frozen, get_all)]
pub(crate) struct Field {
    /// Name of the field.
    name: String,
    /// The value, with white space folded; None if the document has none.
    value: Option<String>,
    /// Where the value first stands: `document.encode()[start:end]`, or `document[start:end]` of bytes; None for
    /// one that does not stand there.
    start: Option<usize>,
    /// The byte after its last.
    end: Option<usize>,
    /// Probability of the answer among those that were allowed, 0 to 1.
    confidence: f32,
    /// Cosine of the field's embedding and the document's, -1 to 1.
    similarity: f32,
}

type FieldParts<'a> = (&'a str, Option<&'a str>, Option<usize>, Option<usize>, f32, f32);

#[pymethods]
impl Field {
    #[new]
    fn new(
        name: String,
        value: Option<String>,
        start: Option<usize>,
        end: Option<usize>,
        confidence: f32,
        similarity: f32,
    ) -> Self {
        Self { name, value, start, end, confidence, similarity }
    }

    fn __reduce__<'a, 'py>(slf: &'a Bound<'py, Self>) -> (Bound<'py, PyType>, FieldParts<'a>) {
        let Self { name, value, start, end, confidence, similarity } = slf.get();
        (slf.get_type(), (name, value.as_deref(), *start, *end, *confidence, *similarity))
    }

    fn __repr__(&self) -> String {
        let place = self.start.zip(self.end).map_or("None".into(), |(start, end)| format!("{start}..{end}"));
        let value = self.value.as_ref().map_or("None".into(), |value| format!("{value:?}"));
        format!("<Field {}: {value} at {place}, confidence {:.2}>", self.name, self.confidence)
    }
}

/// What was found in a document; it can be copied and pickled, its state with it.
#[pyclass(module = "web_rwkv_py", frozen)]
pub(crate) struct Extraction {
    /// One result for each field, in the order of the schema.
    #[pyo3(get)]
    fields: Vec<Py<Field>>,
    /// Tokens of the document and its prompt.
    #[pyo3(get)]
    doc_tokens: usize,
    /// Tokens of all values, their ends included.
    #[pyo3(get)]
    generated_tokens: usize,
    /// How long each step took.
    #[pyo3(get)]
    timings: Timings,
    /// The state after the document: `Model.generate(question, state=state)` asks more of it.
    #[pyo3(get)]
    state: Py<State>,
}

impl Extraction {
    pub(crate) fn of(py: Python<'_>, open: &Arc<Open>, found: engine::Extraction) -> PyResult<Self> {
        let field = |f: engine::Extracted| {
            let (start, end) = f.range.map(|r| (r.start, r.end)).unzip();
            let (name, value, confidence, similarity) = (f.name, f.value, f.confidence, f.similarity);
            Py::new(py, Field { name, value, start, end, confidence, similarity })
        };
        let t = found.timings;
        Ok(Self {
            fields: found.fields.into_iter().map(field).collect::<PyResult<_>>()?,
            doc_tokens: found.doc_tokens,
            generated_tokens: found.generated_tokens,
            timings: Timings {
                tokenize: t.tokenize.as_secs_f64(),
                doc_state: t.doc_state.as_secs_f64(),
                field_analysis: t.field_analysis.as_secs_f64(),
                values: t.values.as_secs_f64(),
            },
            state: Py::new(py, State::of(open, found.state))?,
        })
    }
}

type ExtractionParts<'a> = (&'a [Py<Field>], usize, usize, Timings, &'a Py<State>);

#[pymethods]
impl Extraction {
    #[new]
    fn new(
        fields: Vec<Py<Field>>,
        doc_tokens: usize,
        generated_tokens: usize,
        timings: Timings,
        state: Py<State>,
    ) -> Self {
        Self { fields, doc_tokens, generated_tokens, timings, state }
    }

    fn __reduce__<'a, 'py>(slf: &'a Bound<'py, Self>) -> (Bound<'py, PyType>, ExtractionParts<'a>) {
        let Self { fields, doc_tokens, generated_tokens, timings, state } = slf.get();
        (slf.get_type(), (fields, *doc_tokens, *generated_tokens, *timings, state))
    }

    /// The values by the names of their fields.
    #[getter]
    fn values<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let values = PyDict::new(py);
        self.fields.iter().try_for_each(|f| values.set_item(&f.get().name, &f.get().value))?;
        Ok(values)
    }

    fn __getitem__(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Py<Field>> {
        let name = name.extract::<String>()?;
        let field = self.fields.iter().find(|f| f.get().name == name);
        field.map(|f| f.clone_ref(py)).ok_or_else(|| PyKeyError::new_err(name))
    }

    fn __repr__(&self) -> String {
        let fields: Vec<_> = self.fields.iter().map(|f| f.get().__repr__()).collect();
        format!("Extraction([{}])", fields.join(", "))
    }
}
