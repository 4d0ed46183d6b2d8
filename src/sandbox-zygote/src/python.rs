//! The few pieces of CPython's stable ABI that are needed, declared by hand: no headers, no build of Python at hand.

use crate::script::Tools;
use slot::soon as wait;
use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::ptr;

/// An object; only pointers to it are ever used.
#[repr(C)]
pub struct PyObject {
    _private: [u8; 0],
}

type Function = unsafe extern "C" fn(*mut PyObject, *mut PyObject) -> *mut PyObject;

#[repr(C)]
struct Method {
    name: *const c_char,
    function: Option<Function>,
    flags: c_int,
    doc: *const c_char,
}

/// `PyModuleDef`. Its head is an object header (reference count and type) and three words of the interpreter's own.
#[repr(C)]
struct ModuleDef {
    refcount: isize,
    kind: *mut PyObject,
    init: *mut PyObject,
    index: isize,
    copy: *mut PyObject,
    name: *const c_char,
    doc: *const c_char,
    size: isize,
    methods: *mut Method,
    slots: *mut PyObject,
    traverse: *mut PyObject,
    clear: *mut PyObject,
    free: *mut PyObject,
}

const METH_VARARGS: c_int = 1;
/// What an extension of the stable ABI says its API version is.
const ABI_VERSION: c_int = 3;

unsafe extern "C" {
    static mut PyExc_RuntimeError: *mut PyObject;
    static mut PyExc_SystemExit: *mut PyObject;
    static mut PyExc_OSError: *mut PyObject;
    static mut PyLong_Type: PyObject;
    static mut _Py_NoneStruct: PyObject;
    fn PyObject_GetAttrString(object: *mut PyObject, name: *const c_char) -> *mut PyObject;
    fn PyObject_IsTrue(object: *mut PyObject) -> c_int;
    fn PyModule_Create2(def: *mut ModuleDef, version: c_int) -> *mut PyObject;
    fn PyErr_SetString(kind: *mut PyObject, text: *const c_char);
    fn PyErr_Print();
    fn PyTuple_GetItem(tuple: *mut PyObject, at: isize) -> *mut PyObject;
    fn PyBytes_AsStringAndSize(bytes: *mut PyObject, data: *mut *mut c_char, size: *mut isize) -> c_int;
    fn PyLong_FromLong(n: c_long) -> *mut PyObject;
    fn PyObject_CallFunctionObjArgs(callable: *mut PyObject, ...) -> *mut PyObject;
    fn Py_GetVersion() -> *const c_char;
    fn Py_CompileString(text: *const c_char, file: *const c_char, start: c_int) -> *mut PyObject;
    fn PyEval_EvalCode(code: *mut PyObject, globals: *mut PyObject, locals: *mut PyObject) -> *mut PyObject;
    fn PyErr_Fetch(kind: *mut *mut PyObject, value: *mut *mut PyObject, trace: *mut *mut PyObject);
    fn PyErr_NormalizeException(
        kind: *mut *mut PyObject,
        value: *mut *mut PyObject,
        trace: *mut *mut PyObject,
    );
    fn PyException_SetTraceback(value: *mut PyObject, trace: *mut PyObject) -> c_int;
    fn PyErr_Clear();
    fn PyErr_CheckSignals() -> c_int;
    fn PyErr_SetFromErrno(kind: *mut PyObject) -> *mut PyObject;
    fn PyEval_SaveThread() -> *mut c_void;
    fn PyEval_RestoreThread(state: *mut c_void);
    fn PyBytes_FromStringAndSize(data: *const c_char, size: isize) -> *mut PyObject;
    fn PySys_GetObject(name: *const c_char) -> *mut PyObject;
    fn PyLong_AsLong(n: *mut PyObject) -> c_long;
    fn PyList_Size(list: *mut PyObject) -> isize;
    fn PyList_GetItem(list: *mut PyObject, at: isize) -> *mut PyObject;
    fn PyDict_Next(
        dict: *mut PyObject,
        at: *mut isize,
        key: *mut *mut PyObject,
        value: *mut *mut PyObject,
    ) -> c_int;
    fn PyObject_IsInstance(object: *mut PyObject, kind: *mut PyObject) -> c_int;
    fn Py_IncRef(object: *mut PyObject);
    fn Py_DecRef(object: *mut PyObject);
}

/// An object that lives as long as the process.
pub type Object = *mut PyObject;

/// `Py_file_input`.
const A_FILE: c_int = 257;

/// "3.11.2 (main, ...)" without what is behind the number.
pub fn version() -> String {
    // SAFETY: the interpreter returns a static string.
    let text = unsafe { CStr::from_ptr(Py_GetVersion()) }.to_string_lossy();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Calls `callable(n)`; prints the traceback when it raises.
pub fn call_with_number(callable: *mut PyObject, n: u32) {
    // SAFETY: the interpreter's lock is held (we are inside of a call from Python, or a fork of one), `callable` is kept
    // alive by the caller's arguments, and the list of arguments ends with NULL.
    unsafe {
        let number = PyLong_FromLong(n.into());
        if PyObject_CallFunctionObjArgs(callable, number, ptr::null_mut::<PyObject>()).is_null() {
            PyErr_Print();
        }
    }
}

/// Calls `callable(n, bytes)`, or `callable(n, None)`; prints the traceback when it raises.
pub fn call_with_number_and_bytes(callable: *mut PyObject, n: u32, bytes: Option<&[u8]>) {
    // SAFETY: as in call_with_number; the bytes are copied; None is never freed.
    unsafe {
        let number = PyLong_FromLong(n.into());
        let bytes = match bytes {
            Some(b) => PyBytes_FromStringAndSize(b.as_ptr().cast(), isize::try_from(b.len()).unwrap_or(0)),
            None => (&raw mut _Py_NoneStruct).cast(),
        };
        let done = !bytes.is_null()
            && !PyObject_CallFunctionObjArgs(callable, number, bytes, ptr::null_mut::<PyObject>()).is_null();
        if !done {
            PyErr_Print();
        }
    }
}

/// Calls `callable(object)`; prints the traceback when it raises.
pub fn call_with(callable: Object, object: Object) {
    // SAFETY: as in call_with_number.
    unsafe {
        if PyObject_CallFunctionObjArgs(callable, object, ptr::null_mut::<PyObject>()).is_null() {
            PyErr_Print();
        }
    }
}

/// Calls `callable()`; false when it raised.
pub fn call(callable: Object) -> bool {
    // SAFETY: as in call_with_number.
    unsafe {
        let done = PyObject_CallFunctionObjArgs(callable, ptr::null_mut::<PyObject>());
        if done.is_null() {
            PyErr_Clear();
        }
        !done.is_null()
    }
}

/// Calls `callable()`, which returns a small number; `None` when it does not.
pub fn call_for_number(callable: Object) -> Option<c_long> {
    // SAFETY: as in call_with_number; the result is ours to release.
    unsafe {
        let got = PyObject_CallFunctionObjArgs(callable, ptr::null_mut::<PyObject>());
        if got.is_null() {
            PyErr_Clear();
            return None;
        }
        let n = PyLong_AsLong(got);
        Py_DecRef(got);
        if n == -1 {
            PyErr_Clear();
        }
        Some(n)
    }
}

/// Calls `callable(n)`, which returns a small number; `None`, with the traceback printed, when it does not.
pub fn call_for_number_of(callable: Object, n: usize) -> Option<c_long> {
    // SAFETY: as in call_for_number; the list of arguments ends with NULL.
    unsafe {
        let number = PyLong_FromLong(c_long::try_from(n).ok()?);
        let got = PyObject_CallFunctionObjArgs(callable, number, ptr::null_mut::<PyObject>());
        if got.is_null() {
            PyErr_Print();
            return None;
        }
        Some(PyLong_AsLong(got))
    }
}

/// Copies of the bytes objects in a list; what is none, and all behind it, is left out.
pub fn list_of_bytes(list: Object) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    // SAFETY: the list is kept alive by the caller's arguments, and so are its items; the index is checked by the
    // interpreter; the bytes are copied before anything else happens.
    unsafe {
        for i in 0..PyList_Size(list).max(0) {
            let (mut data, mut size) = (ptr::null_mut(), 0);
            let item = PyList_GetItem(list, i);
            if item.is_null() || PyBytes_AsStringAndSize(item, &raw mut data, &raw mut size) != 0 {
                break;
            }
            let size = usize::try_from(size).unwrap_or(0);
            out.push(std::slice::from_raw_parts(data.cast::<u8>(), size).to_vec());
        }
        PyErr_Clear();
    }
    out
}

/// The number of a list's items; -1 when it is none.
pub fn list_size(list: Object) -> isize {
    // SAFETY: the list is kept alive by the caller's arguments; an error is cleared.
    unsafe {
        let n = PyList_Size(list);
        if n < 0 {
            PyErr_Clear();
        }
        n
    }
}

/// Whether `sys.name` is this very object.
pub fn sys_is(name: &CStr, object: Object) -> bool {
    // SAFETY: borrows a reference without keeping it.
    unsafe { PySys_GetObject(name.as_ptr()) == object }
}

/// Whether a value of the dictionary is an instance of `kind`. What cannot be told counts as yes.
pub fn has_instance(dict: Object, kind: Object) -> bool {
    let (mut at, mut key, mut value) = (0, ptr::null_mut(), ptr::null_mut());
    // SAFETY: key and value are borrowed; an instance check of a program's own class may run its code, but the value is
    // held meanwhile, and PyDict_Next only reads within what the dictionary has at that time.
    unsafe {
        while PyDict_Next(dict, &raw mut at, &raw mut key, &raw mut value) != 0 {
            Py_IncRef(value);
            let is = PyObject_IsInstance(value, kind);
            Py_DecRef(value);
            if is != 0 {
                PyErr_Clear();
                return true;
            }
        }
    }
    false
}

/// Compiles a file's text; `None`, and no exception set, when it does not compile.
pub fn compile(text: &CStr, file: &CStr) -> Option<Object> {
    // SAFETY: both strings live through the call.
    unsafe {
        let code = Py_CompileString(text.as_ptr(), file.as_ptr(), A_FILE);
        if code.is_null() {
            PyErr_Clear();
            return None;
        }
        Some(code)
    }
}

/// Whether an exception is `SystemExit` with the code 0 or `None`.
pub fn is_exit_0(raised: Object) -> bool {
    // SAFETY: the exception is alive; what is looked up is ours to release, and is never more than a few objects.
    unsafe {
        if PyObject_IsInstance(raised, PyExc_SystemExit) != 1 {
            PyErr_Clear();
            return false;
        }
        let code = PyObject_GetAttrString(raised, c"code".as_ptr());
        if code.is_null() {
            PyErr_Clear();
            return false;
        }
        // None is not true, and neither is 0; everything else that is not true (an empty text, say) exits with 0 or 1
        // as the interpreter decides, so it is left to the other way.
        let is_number = PyObject_IsInstance(code, (&raw mut PyLong_Type).cast()) == 1;
        let plain = PyObject_IsTrue(code) == 0 && (is_number || code == (&raw mut _Py_NoneStruct).cast());
        Py_DecRef(code);
        plain
    }
}

/// Runs compiled code in this namespace.
///
/// # Errors
/// The exception that it raised, with its traceback.
pub fn eval(code: Object, space: Object) -> Result<(), Object> {
    // SAFETY: both objects are alive.
    unsafe {
        if !PyEval_EvalCode(code, space, space).is_null() {
            return Ok(());
        }
    }
    Err(fetch())
}

/// The exception that is set, as one object with its traceback; it is not set any more.
fn fetch() -> Object {
    let (mut kind, mut value, mut trace) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    // SAFETY: the three references become ours, and are never given back: the process ends with them.
    unsafe {
        PyErr_Fetch(&raw mut kind, &raw mut value, &raw mut trace);
        PyErr_NormalizeException(&raw mut kind, &raw mut value, &raw mut trace);
        if !trace.is_null() {
            PyException_SetTraceback(value, trace);
        }
    }
    value
}

unsafe extern "C" fn serve(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with a tuple of arguments that it keeps alive; the getters check the bounds and
    // types (a missing item is NULL, with the exception set), and the bytes live as long as their object.
    let (hello, items) = unsafe {
        let (mut data, mut size) = (ptr::null_mut(), 0);
        let items: Vec<Object> = (0..17).map(|i| PyTuple_GetItem(args, i)).collect();
        if items.iter().any(|i| i.is_null())
            || PyBytes_AsStringAndSize(items[0], &raw mut data, &raw mut size) != 0
        {
            return ptr::null_mut();
        }
        let hello = std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(size).unwrap_or(0));
        (hello, items)
    };
    match crate::serve(hello, Tools::new(&items[1..16])) {
        Ok(()) => std::process::exit(0), // the supervisor is gone
        Err(e) => {
            let text = CString::new(e.to_string().replace('\0', " ")).unwrap_or_default();
            // SAFETY: the interpreter's lock is held; the text outlives the call, which copies it.
            unsafe { PyErr_SetString(PyExc_RuntimeError, text.as_ptr()) };
            call_with(items[16], fetch());
            ptr::null_mut()
        }
    }
}

/// `receive(fd, most)`: what `os.read` does with a socket, but that it looks for a moment before it sleeps ([`wait`]): an
/// answer that is on its way is there sooner than a process wakes up.
unsafe extern "C" fn receive(_module: *mut PyObject, args: *mut PyObject) -> *mut PyObject {
    let mut part = [0_u8; 4096];
    // SAFETY: called by the interpreter with a tuple of arguments that it keeps alive. Other threads of the program may
    // run while this one sleeps. The buffer lives on our stack.
    unsafe {
        let fd = c_int::try_from(PyLong_AsLong(PyTuple_GetItem(args, 0))).unwrap_or(-1);
        let most = usize::try_from(PyLong_AsLong(PyTuple_GetItem(args, 1))).unwrap_or(0);
        let most = most.min(part.len());
        if let Some(n) = wait::soon(|| wait::look(fd, &mut part[..most])).filter(|n| *n >= 0) {
            return PyBytes_FromStringAndSize(part.as_ptr().cast(), n);
        }
        loop {
            let state = PyEval_SaveThread();
            let n = libc::recv(fd, part.as_mut_ptr().cast(), most, 0);
            let interrupted = n < 0 && *libc::__errno_location() == libc::EINTR;
            PyEval_RestoreThread(state);
            if n >= 0 {
                return PyBytes_FromStringAndSize(part.as_ptr().cast(), n);
            }
            // The program's own signal handlers are called then, and may raise.
            if !interrupted {
                return PyErr_SetFromErrno(PyExc_OSError);
            }
            if PyErr_CheckSignals() != 0 {
                return ptr::null_mut();
            }
        }
    }
}

/// `held_source()`: the program's text, where it had to be read before the program's process was locked; else None.
unsafe extern "C" fn held_source(_module: *mut PyObject, _args: *mut PyObject) -> *mut PyObject {
    // SAFETY: called by the interpreter with its lock held; the text lives as long as the process and is copied.
    unsafe {
        match crate::script::held_source() {
            Some(text) => {
                let size = isize::try_from(text.len()).unwrap_or(0);
                PyBytes_FromStringAndSize(text.as_ptr().cast(), size)
            }
            None => {
                Py_IncRef(&raw mut _Py_NoneStruct);
                &raw mut _Py_NoneStruct
            }
        }
    }
}

/// Entry of the extension module `bessemer_zygote`.
#[unsafe(no_mangle)]
pub extern "C" fn PyInit_bessemer_zygote() -> *mut PyObject {
    // The interpreter keeps both for as long as the module lives, which is for ever.
    let methods = Box::leak(Box::new([
        Method { name: c"receive".as_ptr(), function: Some(receive), flags: METH_VARARGS, doc: ptr::null() },
        Method {
            name: c"held_source".as_ptr(),
            function: Some(held_source),
            flags: METH_VARARGS,
            doc: ptr::null(),
        },
        Method { name: c"serve".as_ptr(), function: Some(serve), flags: METH_VARARGS, doc: ptr::null() },
        Method { name: ptr::null(), function: None, flags: 0, doc: ptr::null() },
    ]));
    let def = Box::leak(Box::new(ModuleDef {
        refcount: 1,
        kind: ptr::null_mut(),
        init: ptr::null_mut(),
        index: 0,
        copy: ptr::null_mut(),
        name: c"bessemer_zygote".as_ptr(),
        doc: ptr::null(),
        size: -1,
        methods: methods.as_mut_ptr(),
        slots: ptr::null_mut(),
        traverse: ptr::null_mut(),
        clear: ptr::null_mut(),
        free: ptr::null_mut(),
    }));
    // SAFETY: called by the interpreter with its lock held; `def` is laid out as PyModuleDef and lives for ever.
    unsafe { PyModule_Create2(def, ABI_VERSION) }
}
