//! The class `State`.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
};

use numpy::{
    PyArray1, PyArrayDescrMethods, PyUntypedArray, PyUntypedArrayMethods, dtype, ndarray::ArrayView1,
};
use pyo3::{exceptions::PyTypeError, prelude::*, types::PyBytes};
use web_rwkv_gguf as engine;

use crate::{error::raise, info::StateDevice, model::Open};

/// The recurrent state of one sequence, a value that never changes: f32 `[L, N + 2, C]`.
///
/// For each layer row 0 is the token shift of the time mix, rows 1 to N are the WKV state (row = key index j,
/// column = head * N + value index i), row N + 1 is the token shift of the channel mix. RWKV-4 has `[L, 5, C]`: rows
/// 1 to 3 are aa, bb and pp, which starts at -1e38.
///
/// States can be compared, copied and pickled; `bytes(state)` is what `save` writes, and `State(data)` reads it. One that
/// is on a GPU is fetched once, when it is looked at.
#[pyclass(module = "web_rwkv_py", frozen)]
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) engine: engine::State,
    /// The model that it came from, for as long as that is open.
    model: Weak<Open>,
}

impl State {
    /// A state that came from a model.
    pub(crate) fn of(open: &Arc<Open>, engine: engine::State) -> Self {
        Self { engine, model: Arc::downgrade(open) }
    }

    /// The buffer; one that is on a GPU is fetched without the GIL.
    fn fetched(&self, py: Python<'_>) -> PyResult<&[f32]> {
        py.detach(|| self.engine.as_slice()).map_err(raise)
    }
}

/// A state that came from bytes.
impl From<engine::State> for State {
    fn from(engine: engine::State) -> Self {
        Self { engine, model: Weak::new() }
    }
}

#[pymethods]
impl State {
    #[new]
    fn new(py: Python<'_>, data: &Bound<'_, PyBytes>) -> PyResult<Self> {
        let data = data.as_bytes();
        py.detach(|| engine::State::from_bytes("state", data)).map(Self::from).map_err(raise)
    }

    /// Reads the file of a state. Which model it is of is checked where it is used.
    #[staticmethod]
    fn load(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        py.detach(|| engine::State::load(path)).map(Self::from).map_err(raise)
    }

    /// Writes the state to a file, with the model's fingerprint.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.engine.save(path)).map_err(raise)
    }

    /// The sizes `(L, N + 2, C)`; `to_numpy().reshape(shape)` has them.
    #[getter]
    fn shape(&self) -> (usize, usize, usize) {
        self.engine.dims().into()
    }

    /// The buffer, f32 `[L * (N + 2) * C]`, without a copy: a read-only view that keeps the state alive.
    ///
    /// Take `.copy()` of it, or `Model.back_state_numpy`, for an array to write to; `Model.state_from_numpy` makes
    /// a state of that again.
    fn to_numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let data = ArrayView1::from(slf.get().fetched(slf.py())?);
        // SAFETY: the array holds a reference to the state, whose buffer is never moved or written once it is there:
        // the class is frozen, and what is fetched is set once. And numpy never writes to it, as the array is made
        // read-only before anyone has it, and cannot be made writeable: a State exports no buffer.
        let array = unsafe { PyArray1::borrow_from_array(&data, slf.clone().into_any()) };
        array.call_method1("setflags", (false,))?;
        Ok(array)
    }

    /// The buffer as a list of `L * (N + 2) * C` numbers; slow, `to_numpy` is not.
    fn to_list(&self, py: Python<'_>) -> PyResult<Vec<f32>> {
        Ok(self.fetched(py)?.to_vec())
    }

    /// A state of its own with the same contents.
    fn deep_clone(&self, py: Python<'_>) -> Self {
        py.detach(|| self.clone())
    }

    /// Where the state is kept.
    fn device(&self) -> StateDevice {
        if self.engine.is_on_gpu() { StateDevice::Gpu } else { StateDevice::Cpu }
    }

    /// The state on another device: itself, if it is there already.
    ///
    /// Only the model that a state came from can put it on a GPU, as long as it is open and runs on one; for any other
    /// state, of a file for one, it is a DeviceError, and `Model.load_state` takes it.
    fn to(slf: &Bound<'_, Self>, device: StateDevice) -> PyResult<Py<Self>> {
        let (py, state) = (slf.py(), slf.get());
        if state.device() == device {
            return Ok(slf.clone().unbind());
        }
        let moved = py.detach(|| match (device, state.model.upgrade()) {
            (_, Some(open)) => open.on(device, state.engine.clone()),
            (StateDevice::Cpu, None) => {
                let mut fetched = state.engine.clone();
                fetched.to_host().map(|()| fetched)
            }
            (StateDevice::Gpu, None) => Err(engine::Error::Device {
                device: "gpu".into(),
                what: "expected a state of an open model, which Model.load_state makes of any, found one of none"
                    .into(),
            }),
        });
        Py::new(py, Self { engine: moved.map_err(raise)?, model: state.model.clone() })
    }

    fn __eq__(&self, py: Python<'_>, other: &Bound<'_, Self>) -> bool {
        let other = &other.get().engine;
        py.detach(|| self.engine == *other)
    }

    fn __copy__(&self, py: Python<'_>) -> Self {
        self.deep_clone(py)
    }

    fn __deepcopy__(&self, py: Python<'_>, _memo: &Bound<'_, PyAny>) -> Self {
        self.deep_clone(py)
    }

    fn __bytes__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &py.detach(|| self.engine.to_bytes()).map_err(raise)?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((slf.get_type().into_any(), (slf.get().__bytes__(slf.py())?,)))
    }

    fn __repr__(&self) -> String {
        format!("State{:?}", self.shape())
    }
}

/// The buffer of a state as an argument: a float32 array.
pub(crate) struct Floats {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl<'py> FromPyObject<'_, 'py> for Floats {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Ok(array) = obj.cast::<PyUntypedArray>() else {
            let found = obj.get_type().name()?;
            return Err(PyTypeError::new_err(format!("expected a float32 array, found {found}")));
        };
        if !array.dtype().is_equiv_to(&dtype::<f32>(obj.py())) {
            let found = array.dtype();
            return Err(PyTypeError::new_err(format!("expected a float32 array, found one of {found}")));
        }
        // numpy brings strides and alignment in order.
        let bytes = array.call_method0("tobytes")?.cast::<PyBytes>()?.as_bytes().to_vec();
        Ok(Self { shape: array.shape().to_vec(), bytes })
    }
}

impl Floats {
    /// `state` with these contents.
    pub(crate) fn state(self, mut state: engine::State) -> engine::Result<engine::State> {
        let Self { shape, bytes } = self;
        let (dims, len) = (state.dims(), state.len());
        if shape != dims && shape != [len] {
            return Err(engine::Error::Request {
                thing: "state array".into(),
                expected: format!("{dims:?} or [{len}]"),
                found: format!("{shape:?}"),
            });
        }
        let (floats, _) = bytes.as_chunks::<4>();
        state.set(floats.iter().map(|b| f32::from_ne_bytes(*b)).collect())?;
        Ok(state)
    }
}

/// Where a live state comes from, as an argument.
pub(crate) enum Source {
    State(Py<State>),
    Array(Floats),
    Path(PathBuf),
}

impl<'py> FromPyObject<'_, 'py> for Source {
    type Error = PyErr;

    fn extract(obj: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if let Ok(state) = obj.cast::<State>() {
            Ok(Self::State(state.to_owned().unbind()))
        } else if obj.is_instance_of::<PyUntypedArray>() {
            obj.extract().map(Self::Array)
        } else if let Ok(path) = obj.extract() {
            Ok(Self::Path(path))
        } else {
            let found = obj.get_type().name()?;
            Err(PyTypeError::new_err(format!(
                "expected a State, a float32 array or the path of a file, found {found}"
            )))
        }
    }
}
